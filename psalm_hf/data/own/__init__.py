"""Own data: what annotation tools write."""
