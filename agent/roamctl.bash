# bash completion of roamctl. Commands and options come from its help, so there is no second list.
_roamctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} word command= dir=()
	local i words

	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ $word == --dir ]]; then
			dir=(--dir "${COMP_WORDS[i + 1]}")
			((i++))
		elif [[ $word != -* && -z $command ]]; then
			command=$word
		fi
	done
	case $prev in
	--dir)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return ;;
	--interval)
		return ;;
	esac
	if [[ $cur == -* ]]; then
		words=$("${COMP_WORDS[0]}" --help 2>/dev/null | sed -n '/^Options:/,/^$/p' | grep -o -- '--[a-z]*')
	elif [[ -z $command ]]; then
		words=$("${COMP_WORDS[0]}" --help 2>/dev/null | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
	else
		case $command in
		list | freeze | thaw | park)	# processes that the agent knows
			words=$("${COMP_WORDS[0]}" "${dir[@]}" list --json 2>/dev/null |
				grep -o '"pid": [0-9]*' | grep -o '[0-9]*' | sort -u) ;;
		show)
			words=$("${COMP_WORDS[0]}" "${dir[@]}" list --json 2>/dev/null |
				grep -o '"gid": "[0-9a-f]*"' | grep -o '[0-9a-f]\{32\}' | sort -u) ;;
		doctor | keygen)
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _roamctl roamctl
