#!/usr/bin/python
# Copyright: the authors of the Edge Litestream appliance
# MIT License (see LICENSE or https://opensource.org/licenses/MIT)
"""Documentation of the action plugin of this name, which runs on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: litestream_config
short_description: Check the configuration of Litestream, and tell all that follows from it
version_added: 2.0.0
description:
  - Litestream ignores unknown keys silently and runs on without any database. What is wrong is found here,
    before anything changes. The module fails with a sentence per problem, with key, value and what to do.
  - Returns the configuration to write, with the defaults of the version's series under what the operator set,
    and what the unit, the permissions and the rotator have to know of it.
  - Runs on the control node alone; nothing is asked of the device.
options:
  config:
    description: Content of litestream.yml as the operator gave it. Its keys are those of Litestream.
    type: raw
    required: true
  databases:
    description:
      - Databases that are added to O(config), by name, in mappings by the variable that says them, whose name
        is C(edge_databases) or begins with C(edge_databases_). Each is an entry of C(dbs) with a C(group)
        beside it, by default the name and C(-data), and a C(unit), or a list of units, that writes it. What
        its C(replica) does not say is derived, from O(prefix) and the name, O(bucket) and O(region).
      - No name may be there twice, and no directory with two groups.
    type: dict
    default: {}
  bucket:
    description: Bucket of the replicas of O(databases).
    type: str
    default: ""
  region:
    description: AWS region of the replicas that name neither region nor endpoint.
    type: str
    default: ""
  version:
    description: Version of Litestream, like V(0.5.17). Series 0.3 and 0.5 are known.
    type: str
    required: true
  restart_interval:
    description: Shortest time between two restarts by rotation, in seconds; 0 where there are none.
    type: int
    default: 0
  prefix:
    description: What every replica path has to start with; empty for any.
    type: str
    default: ""
  managed:
    description: The databases' directories are given to the applications' group, so they must not be shared.
    type: bool
    default: true
  socket:
    description: Path of the control socket of Litestream 0.5.
    type: str
    default: ""
  groups:
    description: Directories of databases, each with the group of its application.
    type: dict
    default: {}
  group:
    description:
      - Group of the directory that O(groups) does not name. There is one at most, since applications of one
        group can read one another's databases.
    type: str
    default: edge-data
  own_group:
    description: Group of Litestream's user, which the directories get that a database's C(meta-path) names.
    type: str
    default: litestream
  meta:
    description:
      - Directory for Litestream's own files of each database that names no place for them. An application
        must not be able to write there. Empty leaves them beside the database.
    type: str
    default: ""
  profile:
    description:
      - What stands in for Litestream's own intervals where O(config) and O(databases) say nothing.
      - Litestream 0.3 has V(default) alone.
    type: str
    choices: [default, metered, hourly]
    default: default
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
author:
  - Edge Litestream appliance (@edge-litestream)
"""

EXAMPLES = r"""
- name: Litestream's configuration is sound
  edge_litestream.appliance.litestream_config:
    version: 0.5.17
    prefix: edge-0001/
    config:
      dbs:
        - path: /var/lib/app/app.db
          replica: {type: s3, bucket: backups, path: edge-0001/app.db, region: eu-central-1}
    databases:
      edge_databases_pump:
        pump: {path: /var/lib/pump/pump.db, group: pump-data}
    bucket: backups
    region: eu-central-1
  register: plan
"""

RETURN = r"""
problems:
  description: What is wrong, a sentence each. The message of a failure holds them all.
  returned: always
  type: list
  elements: str
config:
  description: Configuration to write.
  returned: success
  type: dict
databases:
  description: Paths of the databases that are named; those of a C(dir) only Litestream knows.
  returned: success
  type: list
  elements: str
patterns:
  description: Patterns of the databases of each C(dir). C(**) stands for the directories below.
  returned: success
  type: list
  elements: str
replicas:
  description: URL of the bucket and path in it, of the first replica of each path, then of each C(dir).
  returned: success
  type: list
  elements: list
sync_interval:
  description: Longest interval at which a database is synced, in seconds. Litestream's default is one.
  returned: success
  type: float
monitor_interval:
  description: Longest time between two looks at a database, in seconds. Litestream's default is one.
  returned: success
  type: float
directories:
  description: Directories that Litestream writes in, each once.
  returned: success
  type: list
  elements: str
groups:
  description: Group of each of these directories.
  returned: success
  type: dict
searches:
  description:
    - Where the databases and what SQLite keeps beside them are, in the words of
      M(edge_litestream.appliance.litestream_databases).
  returned: success
  type: list
  elements: dict
units:
  description: Units that write the databases, by path or C(dir); null where that is not said.
  returned: success
  type: dict
stop_timeout:
  description: Seconds that a stop may take, the last sync of each database included.
  returned: success
  type: int
"""
