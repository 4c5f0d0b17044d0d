"""Universal adversarial perturbations of the recognisers in `models`."""
