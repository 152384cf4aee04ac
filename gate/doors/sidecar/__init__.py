"""The sidecar: a rate limiter for programs in any language, by Envoy's rate limit service and by HTTP."""
