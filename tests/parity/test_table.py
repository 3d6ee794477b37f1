"""The table of `docs/models.md` is what its script would write: for a handful of rows, and in what it lists."""

from __future__ import annotations

import re

import pytest
import transformers

from tests.parity.table import BEGIN, END, PAGE, model_types, try_type
from tests.support.tiny_models import REFUSED, SERVED

TABLE = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
VERDICTS = dict(re.findall(r"^\| `(.+?)` \| (.+?) \|", TABLE, re.MULTILINE))


@pytest.mark.parametrize("model_type", ["bart", "deepseek_v3", "falcon", "gpt_oss", "mixtral", "qwen3_5"])
def test_a_row_is_current(model_type: str) -> None:
    assert str(try_type(model_type)) in TABLE.splitlines(), "run `python -m tests.parity.table`"


@pytest.mark.skipif(f"transformers {transformers.__version__}:" not in TABLE, reason="the table is another version's")
def test_it_lists_every_causal_model() -> None:
    assert list(VERDICTS) == model_types()


def test_served_means_tested() -> None:
    served = {model_type for model_type, verdict in VERDICTS.items() if verdict == "**served**"}
    assert served == set(SERVED)
    assert {VERDICTS[model_type] for model_type in REFUSED} == {"refused"}
