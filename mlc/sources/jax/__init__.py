"""JAX functions and modules."""
