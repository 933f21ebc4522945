"""Kills and full disks at every write, and two runs on one folder."""
