.PHONY: test
test:
	pytest
