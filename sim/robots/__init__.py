"""MuJoCo tasks as robots in real time (`sim_robot`), and their pictures (`render`)."""
