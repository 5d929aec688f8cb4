"""What is recorded of a session, as evidence: gathered, exported as a bundle, and checked by whoever has the bundle."""
