# The serving image: no training framework, no compiler, no root. Build: docker build -t slipstream .
# Run:  docker run -p 8000:8000 -v "$PWD/slipstream-home:/home/slipstream/home" -e SLIPSTREAM_API_KEYS=… slipstream
FROM python:3.12-slim AS build
RUN apt-get update \
    && apt-get install --no-install-recommends --yes gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml setup.py README.md LICENSE ./
COPY src src
RUN python -m venv /opt/slipstream \
    && /opt/slipstream/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.12-slim
COPY --from=build /opt/slipstream /opt/slipstream
RUN useradd --create-home --uid 10001 slipstream
USER slipstream
ENV PATH=/opt/slipstream/bin:$PATH SLIPSTREAM_HOME=/home/slipstream/home
VOLUME /home/slipstream/home
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["slipstream"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--access-log"]
