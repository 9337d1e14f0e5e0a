// The compiler takes a function without a body, as those of stage.go that the runtime has,
// only in a package with an assembly file.
