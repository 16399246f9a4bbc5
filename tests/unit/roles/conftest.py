"""Roles' tests find the collection's plugins as Ansible does."""

from __future__ import annotations

from pathlib import Path

from ansible.plugins.loader import init_plugin_loader
from ansible.utils.collection_loader import AnsibleCollectionConfig

if not AnsibleCollectionConfig.collection_finder:
    init_plugin_loader([str(Path(__file__).resolve().parents[3] / ".collections")])
