# Two commands do everything on a fresh Debian machine, as root:
#   make demo    the main job on a real small PHP shop, with a report at the end
#   make test    every test
# Each line below is one a person could type.

SHELL    := /bin/bash
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT   ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
DATE     ?= $(shell git log -1 --format=%cI 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT) -X main.date=$(DATE)
LINT     := v2.15.0
NFPM     := v2.45.2
PACKAGES := php8.2-fpm php8.2-cli php8.2-redis nginx-light apache2-bin caddy redis-server supervisor util-linux e2fsprogs procps systemd debootstrap lintian rpm \
	php-illuminate-queue php-illuminate-redis php-illuminate-cache php-illuminate-bus php-illuminate-events \
	php-symfony-redis-messenger php-symfony-event-dispatcher

# The vulnerability check and its database, and a Go in which it finds nothing.
VULN     := v1.9.0
VULNDB   := v0.0.0-20261105234957-e22db6528018

export GOTOOLCHAIN ?= go1.26.11
export PATH := /usr/local/go/bin:$(PATH)
export GOFLAGS ?= -buildvcs=false

.PHONY: build packages packages-test test unit lint vuln fuzz e2e systemd-test soak demo bench deps clean

build: ## superd, superctl and superd-keeper into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/superd-keeper ./cmd/superd-keeper
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/superd ./cmd/superctl

# Another machine's: make packages ARCH=arm64
ARCH ?= $(shell go env GOARCH)
packages: bin/nfpm ## .deb and .rpm into dist/, the same bytes for the same source
	GOARCH=$(ARCH) CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o dist/stage/bin/ ./cmd/superd ./cmd/superctl ./cmd/superd-keeper
	@COMMIT='$(COMMIT)' packaging/package $(ARCH)

test: deps build unit e2e ## every test

unit:
	go test -race -count=1 -timeout 15m ./...

lint: bin/golangci-lint
	bin/golangci-lint run ./...

vuln: bin/govulncheck bin/vulndb ## known vulnerabilities in what we call
	bin/govulncheck -db file://$(CURDIR)/bin/vulndb ./...

FUZZTIME ?= 60s
fuzz: ## every fuzz target for FUZZTIME
	@packaging/fuzz $(FUZZTIME)

e2e: build bin/nfpm ## stories against real php-fpm, nginx and Redis
	go test -race -tags e2e -count=1 -timeout 50m ./e2e/...

systemd-test: deps build ## of e2e, the shipped unit under a systemd of its own, in namespaces
	go test -race -tags e2e -count=1 -timeout 10m -v -run '^TestUnit' ./e2e/

packages-test: deps bin/nfpm ## of e2e, what the packages do to a machine
	go test -race -tags e2e -count=1 -timeout 20m -v -run '^TestPackages' ./e2e/

SOAK ?= 1000
soak: build ## so many switches under load; nothing of them stays
	SUPERD_SOAK=$(SOAK) go test -race -tags e2e -count=1 -timeout 2h -v -run TestManySwitchesLeaveNothing ./e2e/

demo: deps build ## a small PHP shop: switch, bad release, rollback, crash, report
	go run ./e2e/demo

bench: deps build ## the same load on superd and on today's ways, side by side
	@packaging/deps supervisor runit s6
	go run ./e2e/bench
	go run ./e2e/bench/fleet

deps: ## what tests and demo need, from Debian
	@packaging/deps $(PACKAGES)

bin/golangci-lint:
	GOBIN=$(CURDIR)/bin go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT)

bin/nfpm:
	GOBIN=$(CURDIR)/bin go install github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM)

bin/govulncheck:
	GOBIN=$(CURDIR)/bin go install golang.org/x/vuln/cmd/govulncheck@$(VULN)

bin/vulndb:
	GOBIN=$(CURDIR)/bin go install golang.org/x/vulndb/cmd/indexdb@$(VULNDB)
	bin/indexdb -out $@ -vulns "$$(go mod download -json golang.org/x/vulndb@$(VULNDB) | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')/data/osv"

clean:
	rm -rf bin dist
