"""What training and serving agree on: manifest, bundle, wire, errors. Needs numpy only."""
