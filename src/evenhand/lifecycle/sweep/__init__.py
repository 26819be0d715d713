"""The sweep: trials that are ordinary runs, an Optuna study that shares them out, and a ranking that says how sure it is."""
