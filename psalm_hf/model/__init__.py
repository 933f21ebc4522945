"""Everything a checkpoint needs, flat, so that the folder can travel with one."""
