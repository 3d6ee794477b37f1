# One image for every role; the command says which (see compose.yaml).
FROM python:3.11-slim
WORKDIR /app
COPY constraints.txt pyproject.toml README.md ./
COPY shared shared
COPY workers workers
COPY scheduler scheduler
COPY gateway gateway
COPY cli cli
COPY examples examples
RUN pip install --no-cache-dir torch==2.13.0 && pip install --no-cache-dir --constraint constraints.txt .
RUN useradd --create-home headstart
USER headstart
ENTRYPOINT ["headstart"]
