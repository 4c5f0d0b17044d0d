"""From AudioSet's CSVs to feature shards, and from shards to trained recognisers: the jobs and their Ray loop."""
