"""Room 3: engines, which train trials and tell how they ended."""
