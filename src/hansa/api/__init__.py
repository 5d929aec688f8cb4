"""REST under /api/v1, and the Python client for it: the only way in for the command line and the web pages.

`client` needs hansa's base dependencies alone; `server` needs the extra hansa[server].
"""
