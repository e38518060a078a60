"""Long recordings as jobs that outlive every process which works on them."""
