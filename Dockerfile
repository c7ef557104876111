# One image for the three services; compose.yaml says which one a container runs.
FROM python:3.14-slim
WORKDIR /shop
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY storage.py redis_db.py in_memory_db.py test_connection.py *_service.py ./
COPY shopsphere shopsphere
USER 10001:10001
# Each UVICORN_ variable is an option of uvicorn. A proxy has to give up idle connections before the
# service does, so this one keeps them for 75 s.
ENV PYTHONUNBUFFERED=1 USE_REDIS=required \
    UVICORN_APP=product_service:app UVICORN_HOST=0.0.0.0 UVICORN_PORT=8000 \
    UVICORN_HTTP=shopsphere.web.slow_clients:PROTOCOL \
    UVICORN_TIMEOUT_KEEP_ALIVE=75 UVICORN_TIMEOUT_GRACEFUL_SHUTDOWN=15
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD \
    python -c "import os, http.client as h; c = h.HTTPConnection('127.0.0.1', int(os.environ['UVICORN_PORT']), timeout=2); c.request('GET', '/ready'); exit(c.getresponse().status != 200)"
CMD ["uvicorn"]
