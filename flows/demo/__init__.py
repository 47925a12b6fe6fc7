"""`make demo`: made-up scenes of four sensors, and the main job on them."""
