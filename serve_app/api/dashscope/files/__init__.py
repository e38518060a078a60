"""``/api/v1``: recordings by their URLs, an order now and the result later."""
