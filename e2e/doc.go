// Package e2e has the stories that are tested end to end: real php-fpm, nginx and
// Redis, superd as people run it, driven through superctl and its socket only. They
// are built with the tag e2e; `make e2e` runs them.
package e2e
