"""The store: what lies where, how it is written atomically, and how it is read. No Ray, no models."""
