curl localhost:8000/healthz
curl localhost:8000/readyz
