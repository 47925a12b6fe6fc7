"""The forms in which shards are stored, a module each; `table` names them all."""
