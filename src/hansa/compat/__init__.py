"""Servers that other systems' clients can point at: each is an adapter, which translates into hansa's own messages."""
