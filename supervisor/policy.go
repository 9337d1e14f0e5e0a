package supervisor

import "context"

// A policy may change while the process runs, and touches no life for it.

// SetPolicy makes another policy hold from now on: a life that has begun ends by it,
// one that has not proved itself goes on as it began.
func (p *Process) SetPolicy(policy Policy) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.policy = policy.orDefaults()
}

// terms is the policy that holds now.
func (p *Process) terms() Policy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.policy
}

func (p Policy) orDefaults() Policy {
	if p.Proof == nil {
		p.Proof = func(context.Context, *Child) error { return nil }
	}
	return p
}
