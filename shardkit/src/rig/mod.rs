//! A test rig: runs a whole composition in one process and one thread, deterministically.
