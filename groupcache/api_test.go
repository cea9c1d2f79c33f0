package groupcache

import (
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	oldPath = "github.com/golang/groupcache"
	newPath = "github.com/peercache/peercache/groupcache"
)

// loadPackages returns the types of packages as the compiler sees them.
func loadPackages(t *testing.T, paths ...string) []*types.Package {
	t.Helper()
	list := exec.Command("go", append([]string{"list", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}, paths...)...)
	list.Stderr = os.Stderr
	out, err := list.Output()
	require.NoError(t, err)
	files := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), " ")
		files[path] = file
	}
	from := importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(files[path]) })
	var packages []*types.Package
	for _, path := range paths {
		p, err := from.Import(path)
		require.NoError(t, err)
		packages = append(packages, p)
	}
	return packages
}

// face lists what a package exports, a line for each identifier, field and
// method, with the package's own path left out.
func face(p *types.Package, paths ...string) map[string]string {
	qualify := func(other *types.Package) string {
		for _, path := range paths {
			if other.Path() == path {
				return ""
			}
		}
		return other.Path()
	}
	lines := make(map[string]string)
	for _, name := range p.Scope().Names() {
		object := p.Scope().Lookup(name)
		if !object.Exported() {
			continue
		}
		typeOf := types.Unalias(object.Type())
		switch object := object.(type) {
		case *types.Const:
			lines[name] = fmt.Sprintf("const %s = %s", text(typeOf, qualify), object.Val())
		case *types.TypeName:
			lines[name] = "type " + kindOf(typeOf, qualify)
			members(lines, name, typeOf, qualify)
		default:
			lines[name] = text(typeOf, qualify)
		}
	}
	return lines
}

// text is types.TypeString with aliases resolved.
func text(t types.Type, qualify types.Qualifier) string {
	tuple := func(vars *types.Tuple) string {
		var parts []string
		for v := range vars.Variables() {
			parts = append(parts, text(v.Type(), qualify))
		}
		return "(" + strings.Join(parts, ", ") + ")"
	}
	switch t := types.Unalias(t).(type) {
	case *types.Signature:
		return fmt.Sprintf("func%s%s variadic %v", tuple(t.Params()), tuple(t.Results()), t.Variadic())
	case *types.Pointer:
		return "*" + text(t.Elem(), qualify)
	case *types.Slice:
		return "[]" + text(t.Elem(), qualify)
	default:
		return types.TypeString(t, qualify)
	}
}

// kindOf describes a type without what it hides.
func kindOf(t types.Type, qualify types.Qualifier) string {
	named, ok := t.(*types.Named)
	if !ok {
		return text(t, qualify)
	}
	switch under := named.Underlying().(type) {
	case *types.Struct:
		return "struct"
	case *types.Interface:
		return "interface"
	default:
		return text(under, qualify)
	}
}

// members lists the exported fields and methods of a type.
func members(lines map[string]string, name string, t types.Type, qualify types.Qualifier) {
	if s, ok := t.Underlying().(*types.Struct); ok {
		for field := range s.Fields() {
			if field.Exported() {
				lines[name+"."+field.Name()] = "field " + text(field.Type(), qualify)
			}
		}
	}
	for _, receiver := range []types.Type{t, types.NewPointer(t)} {
		set := types.NewMethodSet(receiver)
		for selection := range set.Methods() {
			if method := selection.Obj(); method.Exported() {
				_, byPointer := receiver.(*types.Pointer)
				if _, byValue := lines[name+"."+method.Name()]; byPointer && byValue {
					continue
				}
				lines[name+"."+method.Name()] = fmt.Sprintf("method of pointer %v: %s", byPointer, text(method.Type(), qualify))
			}
		}
	}
}

// Every identifier that the original exports is here, with the same type once
// the one package's path stands for the other's.
func TestExportsWhatTheOriginalExports(t *testing.T) {
	both := loadPackages(t, oldPath, newPath)
	old, ours := face(both[0], oldPath, newPath), face(both[1], oldPath, newPath)
	require.Greater(t, len(old), 60)
	for name, want := range old {
		require.Equal(t, want, ours[name], name)
	}
	t.Logf("%d identifiers, fields and methods, %d of them new", len(ours), len(ours)-len(old))
}

// What is only data is the very type of the original.
func TestDataIsTheOriginals(t *testing.T) {
	both := loadPackages(t, oldPath, newPath)
	for _, name := range []string{
		"Getter", "GetterFunc", "Sink", "ByteView", "Stats", "AtomicInt", "CacheStats", "CacheType",
		"ProtoGetter", "PeerPicker", "NoPeers", "HTTPPoolOptions", "Context",
	} {
		old, ours := both[0].Scope().Lookup(name).Type(), both[1].Scope().Lookup(name).Type()
		require.True(t, types.Identical(types.Unalias(old), types.Unalias(ours)), name)
	}
}
