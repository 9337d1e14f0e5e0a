package wire

import "golang.org/x/sys/unix"

// MaxRights is how many descriptors one frame may bring: a specification and the
// files of the child.
const MaxRights = 1 + MaxFiles

// RightsSpace is the room for control data that receives MaxRights descriptors.
// More are cut off by the kernel, which says so with MSG_CTRUNC.
func RightsSpace() int { return unix.CmsgSpace(4 * MaxRights) }

// Rights takes the descriptors out of the control data of one datagram. The caller
// owns them, also when there is an error.
func Rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return fds, err
		}
		fds = append(fds, got...)
	}
	return fds, nil
}

// CloseAll closes descriptors nobody wants.
func CloseAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd) // Linux frees it whatever close answers
	}
}
