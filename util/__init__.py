"""What the scripts share: the packages data, train, weights and deploy, and the modules here, which they all use."""
