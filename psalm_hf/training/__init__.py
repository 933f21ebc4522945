"""Training: arguments, batches of one task, the Trainer, and vision pretraining for models that start from nothing."""
