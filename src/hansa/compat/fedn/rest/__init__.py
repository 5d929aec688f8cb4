"""FEDn's REST API over a controller: `app` has all routes and knows who may ask; the others answer, a resource each."""

__all__: list[str] = []
