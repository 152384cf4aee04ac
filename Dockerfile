# One image for the gate, the programs of consumers/ and its tools: `docker build -t kafka-admission-gate .`
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/gate
COPY requirements.txt pyproject.toml hatch_build.py README.md ./
COPY gate gate
COPY consumers consumers

# Versions as tested; the development tools among them are pinned, not installed
RUN /opt/gate/bin/pip install --no-cache-dir --constraint requirements.txt .

FROM python:3.12.11-slim-bookworm
RUN useradd --system --uid 10001 gate
COPY --from=build /opt/gate /opt/gate
COPY consumers /opt/gate/consumers
ENV PATH=/opt/gate/bin:$PATH PYTHONUNBUFFERED=1
USER gate
ENTRYPOINT ["gate"]
CMD ["--help"]
