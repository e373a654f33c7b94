"""Integrations with serving engines: Ray Serve (`ray_app`), Triton (`triton`) and Prometheus (`metrics`).

Each module imports one engine, which is an optional extra; `import runtime` imports none of them.
"""
