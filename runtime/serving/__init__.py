"""Ways into serving engines that exist: Ray Serve (`ray_app`), Triton (`triton`) and Prometheus (`metrics`). Each imports its
own engine, an extra of the package, and nothing here is imported by `runtime`."""
