"""What the fault-injection replay injects and how it keeps the books. No ROS here."""
