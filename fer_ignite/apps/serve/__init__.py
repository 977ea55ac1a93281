"""HTTP service: pictures in, expressions as JSON out."""
