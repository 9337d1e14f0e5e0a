package control

// What reread and update of supervisorctl are in superd.

func (q *request) rpcReload(*params) (any, error) {
	return nil, fault(faultFailed, "superctl reload --plan tells what a new configuration changes, and superctl reload makes it hold")
}

func (q *request) rpcAdd(p *params) (any, error) {
	p.process()
	return nil, fault(faultFailed, "superctl reload makes a new configuration hold")
}

func (q *request) rpcRemove(p *params) (any, error) {
	p.process()
	return nil, fault(faultFailed, "superctl reload makes a new configuration hold")
}
