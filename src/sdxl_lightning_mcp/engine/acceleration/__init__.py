"""What makes the engine fast and changes no picture beyond rounding; without it all still works."""
