"""The option of what a device that pulls fetches instead of having it made."""

from __future__ import annotations


class ModuleDocFragment:
    """What modules with C(extends_documentation_fragment) document."""

    DOCUMENTATION = r"""
options:
  artifacts:
    description:
      - What a device that pulls is told, on which nothing is made.
      - The archive is fetched from O(artifacts.url) into O(artifacts.cache), resumed where the connection
        broke, and refused without the checksum that O(artifacts.sums) has for it.
      - A version that is in O(artifacts.installed) is not fetched.
    type: dict
    default: {}
    suboptions:
      url:
        description: URL of the directory.
        type: str
      sums:
        description: Checksums, sha256, by name.
        type: dict
      cache:
        description: Directory on the device.
        type: path
      installed:
        description: Directory of the installed versions.
        type: path
"""
