"""What the API gives, as it is documented: OpenAPI, and the route reference, are made from these."""
