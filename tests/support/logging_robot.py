"""A robot that writes down in a file what it is asked, for tests with real processes."""

import os


class LoggingRobot:
    """Two joints that are where they are sent. The file is that of the variable ROBOT_LOG."""

    name = "logging"
    observation_features = dict.fromkeys(("a.pos", "b.pos", "button"), float)
    action_features = dict.fromkeys(("a.pos", "b.pos"), float)

    def __init__(self):
        self.target = {"a.pos": 0.2, "b.pos": -0.1}

    def connect(self):
        self._log("connect")

    def disconnect(self):
        self._log("disconnect")

    def get_observation(self):
        return {**self.target, "button": 0.01}

    def send_action(self, action):
        self.target = action
        self._log("send")

    def _log(self, word):
        with open(os.environ["ROBOT_LOG"], "a") as file:
            file.write(word + "\n")
