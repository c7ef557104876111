# One image for the three services; compose.yaml says which one a container runs.
FROM python:3.13-slim
WORKDIR /shop
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt && useradd --system --no-create-home shop
COPY storage.py redis_db.py in_memory_db.py test_connection.py *_service.py ./
COPY shopsphere shopsphere
USER shop
ENV PYTHONUNBUFFERED=1 USE_REDIS=required SERVICE=product PORT=8000
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s CMD \
    python -c "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/ready', timeout=2)"
CMD ["sh", "-c", "exec uvicorn ${SERVICE}_service:app --host 0.0.0.0 --port ${PORT} --http shopsphere.web.slow_clients:PROTOCOL"]
