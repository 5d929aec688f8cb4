"""The routes, by resource. Each class is given what it needs and adds its routes to a router."""
