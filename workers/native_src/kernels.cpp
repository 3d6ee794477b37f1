// Kernels of a CPU worker: linears over packed weights, attention of decodes over KV blocks in place, RMS norm.
//
// Weights and activations are float32 or bfloat16; every sum is taken in float32, in an order that does not depend on how
// many rows are computed together, so that a request's company never changes its answer. C ABI, called through ctypes.
// Compiled without libgomp: the OpenMP symbols bind to the library that torch has already loaded, so both share one pool.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 6;
#else
constexpr int LANES = 4, ROWS = 6;
#endif
constexpr int AHEAD = 8;  // tokens of a context fetched ahead
constexpr int PANEL = 2 * LANES;  // output columns of one packed panel: a low and a high half
constexpr int64_t ROW_BLOCK_BYTES = 384 << 10;  // of the input, to stay in a core's second cache while all panels pass

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef uint32_t words __attribute__((vector_size(LANES * 4)));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef uint16_t halves __attribute__((vector_size(LANES * 2)));

struct bf16 { uint16_t bits; };

template <class V> inline V load(const void* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
template <class V> inline void store(void* p, V v) { std::memcpy(p, &v, sizeof v); }
inline vec all(float x) { return x - vec{}; }

inline float widen(float x) { return x; }
inline float widen(bf16 x) { uint32_t u = uint32_t(x.bits) << 16; float f; std::memcpy(&f, &u, 4); return f; }
inline vec widen(const float* p) { return load<vec>(p); }
inline vec widen(const bf16* p) { return (vec)(__builtin_convertvector(load<halves>(p), words) << 16); }

// To nearest, ties to even. A NaN keeps its quiet bit: the mantissa of what the kernels make is never all low bits.
inline words rounded(vec v) { words u = (words)v; return (u + 0x7fffu + ((u >> 16) & 1u)) >> 16; }
inline void narrow(float* p, vec v) { store(p, v); }
inline void narrow(bf16* p, vec v) { store(p, __builtin_convertvector(rounded(v), halves)); }
inline void narrow(float* p, float x) { *p = x; }
inline void narrow(bf16* p, float x) {
  uint32_t u; std::memcpy(&u, &x, 4);
  p->bits = uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

typedef float four __attribute__((vector_size(16)));
inline float sum(four v) { return (v[0] + v[1]) + (v[2] + v[3]); }
#if defined(__AVX2__)
typedef float eight __attribute__((vector_size(32)));
inline float sum(eight v) { return sum(__builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7)); }
#endif
#if defined(__AVX512F__)
inline float sum(vec v) {
  return sum(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) + __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
}
#endif

inline vec pick(ints mask, vec yes, vec no) { return (vec)((mask & (ints)yes) | (~mask & (ints)no)); }

// exp(x) = 2^n * p(r), x = n ln 2 + r: Cody and Waite's reduction and the minimax polynomial of degree 5 known from Cephes.
inline vec exponential(vec x) {
  x = pick(x > all(-87.3f), x, all(-87.3f));
  x = pick(x < all(88.3f), x, all(88.3f));
  vec shifted = x * 1.44269504f + all(12582912.0f);  // 1.5 * 2^23: the sum's low bits are the nearest integer
  vec n = shifted - all(12582912.0f);
  vec r = x - n * 0.693359375f + n * 2.12194440e-4f;
  vec p = all(1.9875691500e-4f) * r + all(1.3981999507e-3f);
  p = p * r + all(8.3334519073e-3f);
  p = p * r + all(4.1665795894e-2f);
  p = p * r + all(1.6666665459e-1f);
  p = p * r + all(5.0000001201e-1f);
  p = p * r * r + r + all(1.0f);
  return (vec)((ints)p + (__builtin_convertvector(n, ints) << 23));
}

inline vec silu(vec x) { return x / (all(1.0f) + exponential(-x)); }

// ---- linears

// Columns [0, LANES) and [LANES, 2 LANES) of a panel at one k. bfloat16 columns share words: low half and high half.
inline void panel_columns(const float* panel, int64_t k, vec& low, vec& high) {
  low = load<vec>(panel + k * PANEL);
  high = load<vec>(panel + k * PANEL + LANES);
}
inline void panel_columns(const bf16* panel, int64_t k, vec& low, vec& high) {
  words both = load<words>(panel + k * PANEL);
  low = (vec)(both << 16);
  high = (vec)(both & 0xffff0000u);
}

inline void put(float* panel, int64_t k, int half, int lane, float value) { panel[k * PANEL + half * LANES + lane] = value; }
inline void put(bf16* panel, int64_t k, int half, int lane, bf16 value) { panel[k * PANEL + 2 * lane + half] = value; }

struct Epilogue {
  const float* bias;  // [columns], or null
  int64_t columns;    // of the output
  bool gated;         // the low half goes through silu and times the high half: LANES output columns per panel
};

template <class T>
inline void finish(vec low, vec high, T* row, int64_t panel, const Epilogue& e) {
  int64_t width = e.gated ? LANES : PANEL, first = panel * width, left = e.columns - first;
  if (e.gated) low = silu(low) * high;
  if (e.bias) {
    float b[PANEL] = {};
    std::memcpy(b, e.bias + first, sizeof(float) * std::min<int64_t>(left, width));
    low += load<vec>(b);
    high += load<vec>(b + LANES);
  }
  if (left >= width) {
    narrow(row + first, low);
    if (!e.gated) narrow(row + first + LANES, high);
    return;
  }
  for (int64_t i = 0; i < left; ++i) narrow(row + first + i, i < LANES ? low[i] : high[i - LANES]);
}

// R rows times one panel. `x` is [k][R].
template <int R, class T>
void tile(const T* panel, const float* x, int64_t depth, T* out, int64_t stride, int64_t number, const Epilogue& e) {
  vec low[R], high[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) low[r] = high[r] = vec{};
  for (int64_t k = 0; k < depth; ++k) {
    vec l, h;
    panel_columns(panel, k, l, h);
    __builtin_prefetch(panel + (k + 24) * PANEL);
    if (sizeof(T) == 4) __builtin_prefetch(panel + (k + 24) * PANEL + LANES);
    const float* column = x + k * R;
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      low[r] += l * column[r];
      high[r] += h * column[r];
    }
  }
  for (int r = 0; r < R; ++r) finish(low[r], high[r], out + r * stride, number, e);
}

template <class T, int R = ROWS>
void tile_of(int rows, const T* panel, const float* x, int64_t depth, T* out, int64_t stride, int64_t number, const Epilogue& e) {
  if constexpr (R > 0) {
    if (rows == R) return tile<R>(panel, x, depth, out, stride, number, e);
    tile_of<T, R - 1>(rows, panel, x, depth, out, stride, number, e);
  }
}

// The input as float32 tiles of up to ROWS rows, each [k][rows].
template <class T>
void pack_input(const T* x, int64_t rows, int64_t depth, float* packed, int threads) {
  int64_t tiles = (rows + ROWS - 1) / ROWS;
#pragma omp parallel for num_threads(threads) if (rows * depth > 65536)
  for (int64_t t = 0; t < tiles; ++t) {
    int64_t first = t * ROWS, count = std::min<int64_t>(ROWS, rows - first);
    float* to = packed + first * depth;
    for (int64_t r = 0; r < count; ++r)
      for (int64_t k = 0; k < depth; ++k) to[k * count + r] = widen(x[(first + r) * depth + k]);
  }
}

template <class T>
void linear(const T* x, const T* weight, T* out, int64_t rows, int64_t depth, int64_t panels, const Epilogue& e, int threads) {
  thread_local std::vector<float> scratch;
  if (int64_t(scratch.size()) < rows * depth) scratch.resize(rows * depth);
  float* packed = scratch.data();
  pack_input(x, rows, depth, packed, threads);
  int64_t block = std::max<int64_t>(ROWS, ROW_BLOCK_BYTES / (4 * depth) / ROWS * ROWS), blocks = (rows + block - 1) / block;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(static)
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t p = 0; p < panels; ++p)
      for (int64_t row = b * block; row < std::min(rows, (b + 1) * block); row += ROWS)
        tile_of<T>(int(std::min<int64_t>(ROWS, rows - row)), weight + p * depth * PANEL, packed + row * depth, depth,
                   out + row * e.columns, e.columns, p, e);
}

// `second` null: panels of PANEL columns of `first`. Else: LANES columns of `first` (gate) beside the same of `second` (up).
template <class T>
void pack(const T* first, const T* second, int64_t columns, int64_t depth, T* panels) {
  int64_t width = second ? LANES : PANEL, count = (columns + width - 1) / width;
#pragma omp parallel for
  for (int64_t p = 0; p < count; ++p)
    for (int half = 0; half < 2; ++half)
      for (int lane = 0; lane < LANES; ++lane) {
        int64_t n = p * width + lane + (second ? 0 : half * LANES);
        const T* from = second && half ? second : first;
        for (int64_t k = 0; k < depth; ++k) put(panels + p * depth * PANEL, k, half, lane, n < columns ? from[n * depth + k] : T{});
      }
}

// ---- attention of decodes

struct Decodes {
  const int32_t* tables;    // [sequences, table_width]
  const int32_t* contexts;  // [sequences]
  const int32_t* firsts;    // [sequences]: the first position that is seen
  int64_t sequences, table_width, block_tokens;
  int64_t heads, kv_heads, head_dim;
  float scale, softcap;  // softcap 0: none
};

// Calls `each(index, row)` with the K or V row of every position in [from, context), block by block.
template <class T, class Each>
inline void walk(const T* cache, const Decodes& d, int64_t s, int64_t kv_head, Each each) {
  const int64_t context = d.contexts[s], from = d.firsts[s], size = d.block_tokens, stride = d.kv_heads * d.head_dim;
  for (int64_t start = from / size * size; start < context; start += size) {
    const T* block = cache + d.tables[s * d.table_width + start / size] * size * stride + kv_head * d.head_dim;
    for (int64_t at = std::max(start, from); at < std::min(start + size, context); ++at) {
      const T* row = block + (at - start) * stride;  // rows of one head lie too far apart for the hardware's prefetcher
      for (int64_t i = 0; i < d.head_dim * int64_t(sizeof(T)); i += 64) __builtin_prefetch((const char*)(row + AHEAD * stride) + i);
      each(at - from, row);
    }
  }
}

// Softmax over `n` scores in place, not yet divided by its sum, which is returned.
float exponentiate(float* scores, int64_t n) {
  float most = -INFINITY;
  for (int64_t i = 0; i < n; ++i) most = std::max(most, scores[i]);
  float total = 0;
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    vec e = exponential(load<vec>(scores + i) - all(most));
    store(scores + i, e);
    total += sum(e);
  }
  for (; i < n; ++i) total += scores[i] = std::exp(scores[i] - most);
  return total;
}

// G query heads of D * LANES values that share one KV head. `scores` is [G][context].
template <int G, int D, class T>
void attend_heads(const T* query, const T* keys, const T* values, T* out, const Decodes& d, int64_t s, int64_t kv_head, float* scores) {
  const int64_t n = d.contexts[s] - d.firsts[s];
  vec q[G][D], acc[G][D] = {};
  for (int g = 0; g < G; ++g)
    for (int i = 0; i < D; ++i) q[g][i] = widen(query + (g * D + i) * LANES) * d.scale;
  walk(keys, d, s, kv_head, [&](int64_t t, const T* key) {
    vec dot[G] = {};
#pragma GCC unroll 8
    for (int i = 0; i < D; ++i) {
      vec k = widen(key + i * LANES);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) dot[g] += k * q[g][i];
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) scores[g * n + t] = sum(dot[g]);
  });
  float totals[G];
  for (int g = 0; g < G; ++g) {
    if (d.softcap)
      for (int64_t t = 0; t < n; ++t) scores[g * n + t] = std::tanh(scores[g * n + t] / d.softcap) * d.softcap;
    totals[g] = exponentiate(scores + g * n, n);
  }
  walk(values, d, s, kv_head, [&](int64_t t, const T* value) {
#pragma GCC unroll 8
    for (int i = 0; i < D; ++i) {
      vec v = widen(value + i * LANES);
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) acc[g][i] += v * scores[g * n + t];
    }
  });
  for (int g = 0; g < G; ++g)
    for (int i = 0; i < D; ++i) narrow(out + (g * D + i) * LANES, acc[g][i] / totals[g]);
}

// As many query heads at a time as have their queries and sums in registers.
template <int D, class T>
void attend_group(const T* query, const T* keys, const T* values, T* out, const Decodes& d, int64_t s, int64_t kv_head, float* scores) {
  for (int64_t group = d.heads / d.kv_heads, g = 0; g < group;) {
    const T* q = query + g * d.head_dim;
    T* to = out + g * d.head_dim;
    if (D <= 4 && group - g >= 4) attend_heads<4, D>(q, keys, values, to, d, s, kv_head, scores), g += 4;
    else if (D <= 4 && group - g == 3) attend_heads<3, D>(q, keys, values, to, d, s, kv_head, scores), g += 3;
    else if (group - g >= 2) attend_heads<2, D>(q, keys, values, to, d, s, kv_head, scores), g += 2;
    else attend_heads<1, D>(q, keys, values, to, d, s, kv_head, scores), g += 1;
  }
}

// Any head size, one query head at a time. `scratch` is [2 * head_dim + context].
template <class T>
void attend_plain(const T* query, const T* keys, const T* values, T* out, const Decodes& d, int64_t s, int64_t kv_head, float* scratch) {
  const int64_t dim = d.head_dim, n = d.contexts[s] - d.firsts[s];
  float *q = scratch, *acc = q + dim, *scores = acc + dim;
  for (int64_t g = 0; g < d.heads / d.kv_heads; ++g) {
    for (int64_t i = 0; i < dim; ++i) q[i] = widen(query[g * dim + i]) * d.scale, acc[i] = 0;
    walk(keys, d, s, kv_head, [&](int64_t t, const T* key) {
      float dot = 0;
      for (int64_t i = 0; i < dim; ++i) dot += widen(key[i]) * q[i];
      scores[t] = d.softcap ? std::tanh(dot / d.softcap) * d.softcap : dot;
    });
    float total = exponentiate(scores, n);
    walk(values, d, s, kv_head, [&](int64_t t, const T* value) {
      for (int64_t i = 0; i < dim; ++i) acc[i] += widen(value[i]) * scores[t];
    });
    for (int64_t i = 0; i < dim; ++i) narrow(out + g * dim + i, acc[i] / total);
  }
}

template <class T>
void attend_one(const T* query, const T* keys, const T* values, T* out, const Decodes& d, int64_t s, int64_t kv_head, float* scratch) {
  switch (d.head_dim % LANES ? 0 : d.head_dim / LANES) {
    case 2: return attend_group<2>(query, keys, values, out, d, s, kv_head, scratch);
    case 4: return attend_group<4>(query, keys, values, out, d, s, kv_head, scratch);
    case 8: return attend_group<8>(query, keys, values, out, d, s, kv_head, scratch);
    default: return attend_plain(query, keys, values, out, d, s, kv_head, scratch);
  }
}

template <class T>
void attend(const T* query, const T* keys, const T* values, T* out, const Decodes& d, int threads) {
  int64_t longest = *std::max_element(d.contexts, d.contexts + d.sequences), group = d.heads / d.kv_heads;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch(2 * d.head_dim + std::max<int64_t>(4, group) * longest);
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t s = 0; s < d.sequences; ++s)
      for (int64_t h = 0; h < d.kv_heads; ++h) {
        int64_t at = (s * d.heads + h * group) * d.head_dim;
        attend_one(query + at, keys, values, out + at, d, s, h, scratch.data());
      }
  }
}

// ---- normalisation

template <class T>
void rms_norm(const T* x, const T* weight, T* out, int64_t rows, int64_t width, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > 32768)
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = x + r * width;
    vec squares = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) squares += widen(from + i) * widen(from + i);
    float total = sum(squares);
    for (; i < width; ++i) total += widen(from[i]) * widen(from[i]);
    float factor = 1.0f / std::sqrt(total / float(width) + eps);
    for (i = 0; i + LANES <= width; i += LANES) {
      T rounded[LANES];
      narrow(rounded, widen(from + i) * factor);  // as the models do: back to the dtype before the weight
      narrow(out + r * width + i, widen(rounded) * widen(weight + i));
    }
    for (; i < width; ++i) {
      T rounded;
      narrow(&rounded, widen(from[i]) * factor);
      narrow(out + r * width + i, widen(rounded) * widen(weight[i]));
    }
  }
}

}  // namespace

extern "C" {

int64_t headstart_panel_columns(int gated) { return gated ? LANES : PANEL; }

#define KERNELS(NAME, T)                                                                                                        \
  void headstart_pack_##NAME(const T* first, const T* second, int64_t columns, int64_t depth, T* panels) {                      \
    pack(first, second, columns, depth, panels);                                                                                \
  }                                                                                                                             \
  void headstart_linear_##NAME(const T* x, const T* panels, const float* bias, T* out, int64_t rows, int64_t depth,             \
                               int64_t columns, int gated, int threads) {                                                       \
    int64_t width = gated ? LANES : PANEL;                                                                                      \
    linear(x, panels, out, rows, depth, (columns + width - 1) / width, Epilogue{bias, columns, gated != 0}, threads);           \
  }                                                                                                                             \
  void headstart_attend_##NAME(const T* query, const T* keys, const T* values, T* out, const int32_t* tables,                   \
                               const int32_t* contexts, const int32_t* firsts, int64_t sequences, int64_t table_width,           \
                               int64_t block_tokens, int64_t heads, int64_t kv_heads, int64_t head_dim, float scale, float softcap,   \
                               int threads) {                                                                                   \
    Decodes d{tables, contexts, firsts, sequences, table_width, block_tokens, heads, kv_heads, head_dim, scale, softcap};       \
    attend(query, keys, values, out, d, threads);                                                                               \
  }                                                                                                                             \
  void headstart_rms_norm_##NAME(const T* x, const T* weight, T* out, int64_t rows, int64_t width, float eps, int threads) {    \
    rms_norm(x, weight, out, rows, width, eps, threads);                                                                        \
  }

KERNELS(float32, float)
KERNELS(bfloat16, bf16)
}
