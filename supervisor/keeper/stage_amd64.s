#include "textflag.h"

// func begin(call uintptr, args *[5]uintptr) uintptr
TEXT ·begin(SB), NOSPLIT, $0-24
	MOVQ call+0(FP), AX
	MOVQ args+8(FP), R12
	MOVQ 0(R12), DI
	MOVQ 8(R12), SI
	MOVQ 16(R12), DX
	MOVQ 24(R12), R10
	MOVQ 32(R12), R8
	SYSCALL
	TESTQ AX, AX
	JZ child
	MOVQ AX, ret+16(FP)
	RET

child: // its argument is at 0(SP) already
	XORL BP, BP
	CALL ·staged(SB)
	INT $3
