"""How user code travels: an archive that says what it holds, and who stands behind it. Import its modules.

| module         | what it is                                                                                      |
|----------------|-------------------------------------------------------------------------------------------------|
| `archive`      | files ↔ a zip archive in one strict form; everything that is hostile is refused                  |
| `manifest`     | what a package holds: its entry, and the digest of every file                                   |
| `requirements` | the lock file of a package: exact versions, with hashes, from wherever the site installs from   |
| `signature`    | Ed25519 keys and signatures over a package's digest                                             |
| `package`      | all of these together: build, sign, open, unpack                                                |
"""

__all__: list[str] = []
