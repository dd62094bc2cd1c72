"""LeRobot's asynchronous inference: gRPC and pickles."""
