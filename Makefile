# What a contributor types. "make" lists it; CONTRIBUTING.md says when.

GO          ?= go
STATICCHECK  = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
FUZZTIME    ?= 20s
ONLY        ?=

.PHONY: help all test race fuzz lint generate bench bench-far accept loc

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

all: lint test ## what must hold before a change is shown to others
	$(GO) build ./...

test: ## all tests
	$(GO) test ./...

race: ## the tests of what runs at once, under the race detector
	$(GO) test -race ./sdk/... ./kernel/... ./plugins/...

fuzz: ## every fuzz target for FUZZTIME (20s)
	@grep -rl --include='*_test.go' '^func Fuzz' . | sort | while read -r file; do \
		dir=$$(dirname "$$file"); \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "-- $$dir $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$dir" || exit 1; \
		done || exit 1; \
	done

lint: ## gofmt, vet, staticcheck
	@files=$$(git ls-files '*.go' | xargs gofmt -l) && test -z "$$files" || { echo "not formatted:" $$files; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

generate: ## generated code, from its sources; the templates' own lines are for modules that have the tool
	$(GO) list ./... | grep -v /examples/template- | xargs $(GO) generate

bench: ## calls beside gRPC and a bare socket, and fifty processes that talk
	$(GO) run ./cmd/cellkernel up examples/bench/genome.toml
	$(GO) run ./cmd/cellkernel up examples/mesh/genome.toml

bench-far: ## the same between two machines: hosts of a network lab (root), else loopback addresses
	$(GO) run ./examples/far bench

accept: ## play the user, kill things, measure: accept.json; ONLY=row,group tries some (as root: all can be tried)
	$(GO) run ./examples/acceptance -only '$(ONLY)'

loc: ## lines of code by directory: without tests, of tests, generated
	@for dir in sdk kernel plugins cmd examples; do \
		for sub in $$(git ls-files "$$dir/*.go" | xargs -n1 dirname | sort -u); do \
			all=$$(git ls-files "$$sub/*.go" | grep "^$$sub/[^/]*$$"); \
			made=$$(grep -l '^// Code generated' $$all); \
			tests=$$(echo "$$all" | grep '_test\.go$$'); \
			code=$$(echo "$$all" | grep -v '_test\.go$$' | grep -vxF -e "$$made"); \
			lines() { test -z "$$*" && echo 0 || cat $$* | wc -l; }; \
			printf '%-46s %7d %7d %7d\n' "$$sub" "$$(lines $$code)" "$$(lines $$tests)" "$$(lines $$made)"; \
		done; \
	done | awk 'BEGIN { printf "%-46s %7s %7s %7s\n", "", "code", "tests", "made" } \
		{ print; c += $$2; t += $$3; g += $$4; split($$1, p, "/"); d[p[1]] += $$2 } \
		END { printf "%-46s %7d %7d %7d\n", "total", c, t, g; for (k in d) printf "  %-44s %7d\n", k, d[k] }'
