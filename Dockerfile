FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /srv
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
COPY pyproject.toml uv.lock ./
# For example: docker build --build-arg EXTRAS="--extra redis --extra chatkit" .
ARG EXTRAS=""
RUN uv sync --locked --no-dev $EXTRAS

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 chat
WORKDIR /srv
COPY --from=build /srv/.venv .venv
COPY alembic.ini ./
COPY app app
COPY migrations migrations
# What is compiled in the image need not be compiled at each start.
RUN .venv/bin/python -m compileall -q app migrations
USER chat
ENV PATH="/srv/.venv/bin:$PATH" PYTHONUNBUFFERED=1 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health', timeout=4)"]
CMD ["python", "-m", "app"]
